"""Settings for every process, read from the environment; a wrong value stops the start."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import environ
from django.core.exceptions import ImproperlyConfigured

from casola_site.core import private_redis
from casola_site.settings import environment as env
from casola_site.settings.sign_in import *  # noqa: F403
from casola_site.settings.sign_in import SOCIAL_APPS, SOCIAL_ORIGINS

BASE_DIR = Path(__file__).resolve().parents[2]

VAR_DIR = env.directory("VAR_DIR", BASE_DIR / "var")
HOST = env.text("HOST", "127.0.0.1")
PORT = env.integer("PORT", 8000, low=1, high=65535)
DEBUG = env.flag("DEBUG", default=False)
SECRET_KEY = env.stored_secret("SECRET_KEY", VAR_DIR / "secret-key")
PUBLIC_URL = env.url("PUBLIC_URL", "", schemes=("http", "https")).rstrip("/")
ALLOWED_HOSTS = env.items("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]", HOST])
TRUSTED_PROXIES = []
for _network in env.items("TRUSTED_PROXIES"):
    try:
        TRUSTED_PROXIES.append(ipaddress.ip_network(_network, strict=False))
    except ValueError:
        raise ImproperlyConfigured(f"TRUSTED_PROXIES: {_network!r} is no IP network.") from None
# Origins that callers' URLs may name although they are private.
FETCH_ALLOW = env.origins("FETCH_ALLOW")

# Processes
WEB_WORKERS = env.integer("WEB_WORKERS", 1, low=1, high=256)
RUNNER_SLOTS = env.integer("RUNNER_SLOTS", 8, low=1, high=64)
RUNNER_MEMORY_MB = env.integer("RUNNER_MEMORY_MB", 0, low=0, high=10_000_000)  # 0: ask the device
LEASE_SECONDS = env.integer("LEASE_SECONDS", 30, low=2, high=3600)
HEARTBEAT_SECONDS = LEASE_SECONDS / 3
IDLE_UNLOAD_SECONDS = env.integer("IDLE_UNLOAD_SECONDS", 900, low=1, high=10_000_000)
DRAIN_SECONDS = env.integer("DRAIN_SECONDS", 25, low=0, high=600)
START_TO_CLOSE_SECONDS = env.integer("START_TO_CLOSE_SECONDS", 300, low=1, high=86400)
CANCEL_GRACE_SECONDS = env.integer("CANCEL_GRACE_SECONDS", 10, low=1, high=600)
WAIT_SECONDS = env.integer("WAIT_SECONDS", 120, low=1, high=3600)
RUNNER_START_SECONDS = 8  # a queued runner task not taken within this: the cluster is wedged
RUNNER_FUNCTION = "inference.background.run_placement"
GUARD_CONFIG = "casola_site.guard_config.build"
# Each engine a ModelSpec may name; tests add the stub engine.
RUNNER_ENGINES = env.items(
    "RUNNER_ENGINES",
    [
        "chat",
        "embeddings",
        "images",
        "rerank",
        "speech",
        "transcription",
        "upstream",
        "video",
    ],
)
SAMPLE_MODEL = "Qwen/Qwen3.5-4B"  # of the first call that pages show
BUDGET_CHANGED = "usage.budgets.follow_budget"
BUDGET_STATES = "usage.budgets.token_states"
MEMBER_REMOVED = "tokens.services.revoke_tokens_of_member"
# Finds the code that carries out a Task's Jobs without jobs importing inference.
JOB_TASKS = "inference.selectors.task_contract"
JOB_COUNTS = "jobs.selectors.count_jobs"

INSTALLED_APPS = [
    "accounts.sign_in.apps.StaffAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_q",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    *SOCIAL_APPS,
    "axes",
    "casola_site",
    "accounts",
    "tokens",
    "usage",
    "jobs",
    "inference",
]

MIDDLEWARE = [
    "casola_site.core.middleware.RequestIdMiddleware",
    "casola_site.core.middleware.ErrorEnvelopeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "casola_site.core.error_views.PageErrorMiddleware",
]
# No session is needed to show one, so that the page about an absent database can be shown.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"

ROOT_URLCONF = "casola_site.urls"
ASGI_APPLICATION = "casola_site.asgi.application"
WSGI_APPLICATION = "casola_site.wsgi.application"
APPEND_SLASH = False
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "accounts.User"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {
        "NAME": "django.contrib.auth.password_validation.MinimumLengthValidator",
        "OPTIONS": {"min_length": 10},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = True
USE_TZ = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "accounts.shell.shell",
            ]
        },
    }
]
STATIC_URL = "/static/"
STATIC_ROOT = VAR_DIR / "static"
STATIC_ROOT.mkdir(exist_ok=True)
STATICFILES_DIRS = [BASE_DIR / "static"]
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
MEDIA_ROOT = VAR_DIR / "media"

# Database: SQLite until DATABASE_URL names PostgreSQL
DATABASE_URL = env.url("DATABASE_URL", "", schemes=("postgres", "postgresql", "sqlite"))
if DATABASE_URL.startswith("postgres"):
    DATABASES = {"default": environ.Env.db_url_config(DATABASE_URL)}
    DATABASES["default"].update(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)
    DATABASES["default"].setdefault("OPTIONS", {}).setdefault("connect_timeout", 3)
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(VAR_DIR / "casola.sqlite3")
            if not DATABASE_URL
            else environ.Env.db_url_config(DATABASE_URL)["NAME"],
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
                "init_command": (
                    "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA mmap_size=134217728;"
                    " PRAGMA cache_size=-16000; PRAGMA temp_store=MEMORY;"
                ),
            },
        }
    }

# Mail: the console until EMAIL_URL names a server, such as smtp+tls://user:password@host:587
globals().update(env.mail("EMAIL_URL"))
MAIL_SERVER = bool(env.text("EMAIL_URL"))
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text("EMAIL_FROM", "Casola <casola@localhost>")
EMAIL_SUBJECT_PREFIX, EMAIL_TIMEOUT = "", 10

# Redis: the launcher's private server until REDIS_URL names another
REDIS_URL = env.url(
    "REDIS_URL", private_redis.redis_url(VAR_DIR), schemes=("redis", "rediss", "unix")
)
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL}], "prefix": "casola:"},
    }
}
_REDIS_CACHE = {
    "LOCATION": REDIS_URL,
    "KEY_PREFIX": "casola",
    "OPTIONS": {"socket_timeout": 2, "socket_connect_timeout": 1},
}
CACHES = {
    "default": {"BACKEND": "casola_site.core.cache.SharedCache", **_REDIS_CACHE},
    "doors": {"BACKEND": "django.core.cache.backends.redis.RedisCache", **_REDIS_CACHE},
    "local": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"},
}

# django-q: one settings dict per cluster; `qnode` sets Q_CLUSTER_NAME before Django loads
Q_CLUSTER_NAME = os.environ.get("Q_CLUSTER_NAME", "default")
Q_CLUSTER = {
    "name": "default",  # also the salt that signs tasks: the same in every process
    "label": "Background tasks",
    "orm": "default",
    "broker_class": "casola_site.core.queue.DatabaseBroker",
    "cache": "local",  # its status only; a guard that waited for Redis could not guard
    "workers": 2,
    "timeout": 600,
    "retry": 900,
    "max_attempts": 3,
    "ack_failures": True,
    "poll": 0.2,
    "queue_limit": 2,
    "bulk": 1,
    "recycle": 500,
    "save_limit": 250,
    "guard_cycle": 0.5,
    "catch_up": False,
    "ALT_CLUSTERS": {},
}
if Q_CLUSTER_NAME.startswith("gpu-"):
    Q_CLUSTER.update(
        workers=RUNNER_SLOTS, queue_limit=1, recycle=1, daemonize_workers=False, scheduler=False
    )

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["tokens.authentication.TokenAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tokens.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["usage.throttling.PlanThrottle"],
    "DEFAULT_PARSER_CLASSES": ["casola_site.core.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "casola_site.core.negotiation.IgnoreAccept",
    "DEFAULT_SCHEMA_CLASS": "casola_site.core.openapi.Schema",
    "EXCEPTION_HANDLER": "casola_site.core.exception_handler.handle",
    "UNAUTHENTICATED_USER": None,
    "DEFAULT_PAGINATION_CLASS": None,
    "DEFAULT_METADATA_CLASS": None,  # OPTIONS is 405 like every method a view does not have
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Casola API",
    "DESCRIPTION": "OpenAI-compatible, fal-compatible and job APIs on runners that Casola hosts itself.",
    "VERSION": "0.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PUBLIC": True,
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"persistAuthorization": True, "displayRequestDuration": True},
    "COMPONENT_SPLIT_REQUEST": True,
    "TAGS": [
        {"name": "OpenAI", "description": "For OpenAI clients: base URL `/openai/v1`."},
        {"name": "Files", "description": "What clients send, kept byte for byte."},
        {"name": "Jobs", "description": "Work that may wait: create, follow, cancel."},
        {"name": "Models", "description": "What is served and whether it is online."},
        {"name": "Organizations", "description": "Members, invites, audit, API tokens, usage."},
        {"name": "Users", "description": "The caller."},
    ],
    "SCHEMA_PATH_PREFIX": "/(api|openai/v1|fal)",
    "ENUM_NAME_OVERRIDES": {
        "JobStatusEnum": "jobs.enums.JobStatus",
        "ImageAnswerEnum": "inference.contracts.images.ANSWERS",
        "TranscriptFormatEnum": "inference.contracts.transcription.FORMATS",
    },
}

# Security
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https://")
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL else []
CSRF_FAILURE_VIEW = "casola_site.core.error_views.csrf_failure"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = 25 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 2000
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'self'"],
        "img-src": ["'self'", "data:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "frame-ancestors": ["'none'"],
        "form-action": ["'self'", *SOCIAL_ORIGINS],
    }
}
RATELIMIT_USE_CACHE = "doors"
RATELIMIT_FAIL_OPEN = True  # the Redis-away case is decided in usage/throttling.py
# axes.W002: no AxesMiddleware, because the admin's login page itself says that it is locked.
SILENCED_SYSTEM_CHECKS = ["axes.W002"]

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"mask": {"()": "casola_site.core.logs.MaskSecrets"}},
    "formatters": {
        "line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s", "datefmt": "%H:%M:%S"}
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["mask"]}
    },
    "root": {"handlers": ["console"], "level": env.choice("LOG_LEVEL", "INFO", of=LOG_LEVELS)},
    "loggers": {
        "django-q": {"handlers": ["console"], "level": "WARNING", "propagate": False},
        "daphne": {"level": "WARNING"},
        # A traceback a second while Redis is away; jobs.link says it once.
        "channels_redis": {"level": "CRITICAL"},
        "django.request": {"level": "ERROR"},
        "django.security.DisallowedHost": {"level": "CRITICAL"},  # any caller can cause it
        "httpx": {"level": "WARNING"},
        "httpx2": {"level": "WARNING"},  # a line per request, with the upstream's address
        "axes": {"level": "ERROR"},  # the audit tells of locks
    },
}
