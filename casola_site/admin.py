"""django-q's own pages would show pickled arguments: they are not registered."""

from django.contrib import admin
from django_q import models as q

for model in (q.Schedule, q.Success, q.Failure, q.OrmQ):
    if admin.site.is_registered(model):
        admin.site.unregister(model)
