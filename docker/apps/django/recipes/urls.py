"""Routes."""

from django.urls import path

from . import views

urlpatterns = [
    path("healthz", views.healthz),
    path("api/v1/recipes", views.recipe),
    path("api/v1/recipes/<int:recipe_id>/reactions", views.react),
]
