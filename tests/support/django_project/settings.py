"""The settings. ``DJANGO_DATABASE`` is the path of the database."""

import os

SECRET_KEY = "not much of a secret"
ALLOWED_HOSTS = ["test.example"]
CSRF_TRUSTED_ORIGINS = ["https://pages.example", "https://*.trusted.example"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_SAVE_EVERY_REQUEST = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "tests.support.django_project.urls"
WSGI_APPLICATION = "tests.support.django_project.wsgi.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["DJANGO_DATABASE"],
        "ATOMIC_REQUESTS": True,
    }
}
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
MIGRATION_MODULES = dict.fromkeys(["auth", "contenttypes", "sessions"])  # faster
GEVENTWS_MAX_MESSAGE_SIZE = 1000
