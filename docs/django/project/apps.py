"""The application. It connects the signal receivers when Django is ready."""
from django.apps import AppConfig


class Project(AppConfig):
    name = "project"

    def ready(self):
        from . import presence  # noqa: F401, importing it connects the receivers
