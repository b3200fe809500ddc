from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0002_credit")]
    operations = [
        migrations.AddField("Order", "note", models.TextField(default="", db_index=True)),
        AddIndexConcurrently("Order", models.Index(fields=["placed"], name="order_placed")),
    ]
