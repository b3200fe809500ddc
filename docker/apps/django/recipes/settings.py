"""Settings: everything that differs between places comes from the environment."""

import os

import dj_database_url

ALLOWED_HOSTS = os.environ.get("ALLOWED_HOSTS", "*").split(",")
INSTALLED_APPS = ["recipes"]
ROOT_URLCONF = "recipes.urls"
WSGI_APPLICATION = "recipes.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

# Each worker keeps its connection. (dj_database_url reads DATABASE_URL.)
DATABASES = {"default": dj_database_url.config(conn_max_age=int(os.environ.get("CONN_MAX_AGE", "600")))}

# The time zone that replies are in.
APP_TIME_ZONE = os.environ.get("APP_TIME_ZONE", "UTC")
