import django.contrib.postgres.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Customer",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("name", models.CharField(max_length=50, unique=True)),
                ("tags", django.contrib.postgres.fields.ArrayField(models.CharField(max_length=10), default=list)),
                ("profile", models.JSONField(default=dict)),
                ("since", models.DateTimeField()),
            ],
        ),
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("customer", models.ForeignKey("shop.Customer", models.CASCADE, related_name="orders")),
                ("number", models.IntegerField()),
                ("placed", models.DateTimeField()),
                ("amount", models.DecimalField(max_digits=10, decimal_places=2)),
            ],
        ),
    ]
