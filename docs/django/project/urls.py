"""The page, and the sign-in and sign-out of Django."""
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from .views import home, presence_auth

urlpatterns = [
    path("", home, name="home"),
    path("login", LoginView.as_view(), name="login"),
    path("logout", LogoutView.as_view(), name="logout"),
    path("presence/auth", presence_auth),
]
