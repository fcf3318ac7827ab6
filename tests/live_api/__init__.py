"""Tests over HTTP against one running Casola."""
