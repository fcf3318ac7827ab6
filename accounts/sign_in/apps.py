"""The admin with a door of its own."""

from django.contrib.admin.apps import AdminConfig


class StaffAdminConfig(AdminConfig):
    """Django's admin, entered through axes and the second factor."""

    default = False
    default_site = "accounts.sign_in.staff.StaffSite"
