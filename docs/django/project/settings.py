"""Settings of the example. Those for rollcall are at the end."""
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
# For a local trial. In production, DEBUG is off and the key is secret.
DEBUG = True
SECRET_KEY = os.environ.get("SECRET_KEY", "only-for-development")
ALLOWED_HOSTS = ["localhost", "127.0.0.1"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "project.apps.Project",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
    ]},
}]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", BASE_DIR / "db.sqlite3")},
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
ROOT_URLCONF = "project.urls"
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "home"
LOGOUT_REDIRECT_URL = "login"

# The address of rollcall for browsers, and the addresses of its nodes for this application.
ROLLCALL_URL = os.environ.get("ROLLCALL_URL", "http://localhost:8000")
ROLLCALL_NODES = os.environ.get("ROLLCALL_NODES", ROLLCALL_URL).split(",")
# The --auth-secret of rollcall, and its --api-key.
ROLLCALL_AUTH_SECRET = os.environ["ROLLCALL_AUTH_SECRET"]
ROLLCALL_API_KEY = os.environ.get("ROLLCALL_API_KEY", "")
