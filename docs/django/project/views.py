"""The page, for those who are signed in: everybody with an account, and who of them is here."""
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.shortcuts import render


@login_required
def home(request):
    people = get_user_model().objects.order_by("username")
    presence = {"url": settings.ROLLCALL_URL, "user": request.user.get_username()}
    return render(request, "home.html", {"people": people, "presence": presence})
