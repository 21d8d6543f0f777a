"""The URLs."""

from django.urls import path

from geventws import django

from . import views

urlpatterns = [
    path("login/<name>", views.log_in),
    path("session", views.session),
    path("chat/<room>", views.chat),
    path("detached", views.detached),
    path("staff", views.staff),
    path("hold", views.hold),
    django.path("chat/again/<room>", views.chat),
    django.path("refuse/<how>", views.refuse),
    django.path("greeting", views.Greeting.as_view(), {"word": "Hello"}, name="greeting"),
    django.path("visit", views.visit),
]
