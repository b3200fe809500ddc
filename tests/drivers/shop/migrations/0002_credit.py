from django.db import migrations, models


def fill(apps, schema_editor):
    customers = apps.get_model("shop", "Customer").objects
    customers.create(name="first", since="2020-01-01T00:00:00Z")


def empty(apps, schema_editor):
    apps.get_model("shop", "Customer").objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.RunPython(fill, empty),
        migrations.AddField("Customer", "credit", models.DecimalField(max_digits=10, decimal_places=2, default=0)),
        migrations.AddConstraint(
            "Customer", models.CheckConstraint(condition=models.Q(credit__gte=0), name="credit_not_negative")
        ),
    ]
