"""The page with all accounts, and the answer to rollcall, which asks who a client is."""
import json

from django.conf import settings
from django.contrib.auth import get_user, get_user_model
from django.contrib.auth.decorators import login_required
from django.contrib.sessions.backends.db import SessionStore
from django.http import HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.crypto import constant_time_compare
from django.views.decorators.csrf import csrf_exempt


@login_required
def home(request):
    people = get_user_model().objects.order_by("username")
    return render(request, "home.html", {"people": people, "presence": {"url": settings.ROLLCALL_URL}})


@csrf_exempt
def presence_auth(request):
    """Answers rollcall (--auth-url). It passes on the session cookie of a client; later it asks about the session."""
    expected = f"Bearer {settings.ROLLCALL_AUTH_SECRET}"
    if not constant_time_compare(request.headers.get("Authorization", ""), expected):
        return HttpResponse(status=404)  # decides nothing about the client, unlike 403
    question = json.loads(request.body)
    if "recheck" in question:
        request.session = SessionStore(question.get("session"))
    user = get_user(request)
    if not user.is_authenticated:
        return JsonResponse({"reason": "sign in first"}, status=403)
    return JsonResponse({"user": user.get_username(), "session": request.session.session_key})
