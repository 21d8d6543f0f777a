"""Views, most of them with a WebSocket."""

import os

from django.contrib.auth import login
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.mixins import LoginRequiredMixin
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404
from django.views import View

from geventws import Broadcast
from geventws.django import websocket

broadcast = Broadcast(os.environ.get("REDIS", "memory://"))


def log_in(request, name):
    login(request, User.objects.get(username=name))
    return HttpResponse("welcome")


def session(request):
    """Set what is in the query; return all but the login."""
    request.session.update(request.GET.dict())
    return HttpResponse(" ".join(f"{name}={request.session[name]}" for name in ("seen", "page")))


@login_required
@websocket
def chat(request, ws, room):
    with broadcast.subscribe(room, ws):
        ws.send(f"{os.getpid()}")
        for text in ws:
            # last_name: a column that each message may write to.
            User.objects.filter(pk=request.user.pk).update(last_name=text)
            broadcast.publish(room, f"{request.user.username}: {text}")


@websocket
@login_required
def detached(request, ws):
    ws.detach(answer)


def answer(ws, text):
    ws.send(User.objects.get(username=text).last_name)


def refuse(request, ws, how):
    if how == "denied":
        raise PermissionDenied
    if how == "missing":
        raise Http404
    if how == "no-object":
        get_object_or_404(User, username="Nobody")
    return HttpResponse("Later.", status=503)


@permission_required("auth.change_user", raise_exception=True)
@websocket
def staff(request, ws):
    ws.send("welcome")


class Greeting(LoginRequiredMixin, View):
    raise_exception = True

    def get(self, request, ws, word):
        ws.send(f"{word}, {request.user.username}")


def visit(request, ws):
    request.session.update({"seen": "before", "page": "first"})
    ws.accept()
    request.session["page"] = "lost"
    for _ in ws:
        pass


@websocket
def hold(request, ws):
    with transaction.atomic():
        ws.send(f"{User.objects.count()}")
        ws.receive()
