"""The only HTTP resource: the users who are online, to compare with what clients received."""

from django.http import JsonResponse
from django.urls import path

import online


async def users(_request):
    return JsonResponse({"online_users": await online.users()})


urlpatterns = [path("ws-online-status/users", users)]
