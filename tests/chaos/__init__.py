"""Kills every part of a running Casola and checks that its promises hold."""
