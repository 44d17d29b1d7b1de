"""The one page: who is online, for whoever checks what the sockets said."""

from django.http import JsonResponse
from django.urls import path

import online


async def users(_request):
    return JsonResponse({"online_users": await online.users()})


urlpatterns = [path("ws-online-status/users", users)]
