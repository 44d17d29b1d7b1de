#!/usr/bin/env python3
"""The command line of Django for this project."""
import os, sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
execute_from_command_line(sys.argv)
