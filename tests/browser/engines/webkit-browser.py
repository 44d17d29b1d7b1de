#!/usr/bin/python3
"""The smallest browser around WebKitGTK that WebKitWebDriver can drive.

WebKit's own MiniBrowser is always in private mode when it is driven, and then writes no console messages.
Variable: WEBKIT_LOG is the file for console messages.
"""

import os

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("WebKit2", "4.1")
from gi.repository import Gtk, WebKit2  # noqa: E402

LOG = os.open(os.environ["WEBKIT_LOG"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
CONTEXT = WebKit2.WebContext()
SETTINGS = WebKit2.Settings(enable_write_console_messages_to_stdout=True)


def new_window(_session):
    view = WebKit2.WebView(web_context=CONTEXT, settings=SETTINGS, is_controlled_by_automation=True)
    window = Gtk.Window(default_width=1280, default_height=800)
    window.add(view)
    view.connect("close", lambda _view: window.destroy())
    window.show_all()
    return view


def start(_context, session):
    info = WebKit2.ApplicationInfo()
    info.set_name("WebKitGTK")
    info.set_version(WebKit2.get_major_version(), WebKit2.get_minor_version(), WebKit2.get_micro_version())
    session.set_application_info(info)
    session.connect("create-web-view", new_window)


# WebKitWebDriver discards what its browser prints.
os.dup2(LOG, 1)
os.dup2(LOG, 2)
CONTEXT.set_automation_allowed(True)
CONTEXT.connect("automation-started", start)
Gtk.main()
