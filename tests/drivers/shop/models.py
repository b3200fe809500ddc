"""Models with what PostgreSQL has special: arrays, JSON, ranges, constraints."""

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Customer(models.Model):
    name = models.CharField(max_length=50, unique=True)
    tags = ArrayField(models.CharField(max_length=10), default=list)
    profile = models.JSONField(default=dict)
    since = models.DateTimeField()
    credit = models.DecimalField(max_digits=10, decimal_places=2, default=0)

    class Meta:
        constraints = [models.CheckConstraint(condition=models.Q(credit__gte=0), name="credit_not_negative")]


class Order(models.Model):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE, related_name="orders")
    number = models.IntegerField()
    placed = models.DateTimeField()
    amount = models.DecimalField(max_digits=10, decimal_places=2)
    note = models.TextField(default="", db_index=True)
