"""The application's SQL, once per shape. Each version names its own columns only, as a deployed version would."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from tasks.application.record import IntakeKey
from tasks.application.volumes import ShapeName


class Command(NamedTuple):
    """One statement to send. ``gives`` names the intake whose new id comes back, for an insert that returns it."""

    name: str
    text: str
    values: Mapping[str, Any]
    gives: IntakeKey | None = None


_OLD = {
    "insert": "INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)"
    " VALUES (%(user)s, %(at)s, %(amount)s, %(unit)s) RETURNING id",
    "upsert": "INSERT INTO water_intake (user_id, date_time_utc, volume, volume_unit)"
    " VALUES (%(user)s, %(at)s, %(amount)s, %(unit)s)"
    " ON CONFLICT (user_id, date_time_utc) DO UPDATE SET volume = EXCLUDED.volume, volume_unit = EXCLUDED.volume_unit"
    " RETURNING id",
    "set volume": "UPDATE water_intake SET volume = %(amount)s, volume_unit = %(unit)s WHERE id = %(id)s",
    "set time": "UPDATE water_intake SET date_time_utc = %(at)s WHERE id = %(id)s",
    "read": "SELECT id, date_time_utc, volume, volume_unit FROM water_intake WHERE user_id = %(user)s",
    "read user": "SELECT email, NULL FROM users WHERE id = %(user)s",
    "read all": "SELECT user_id, id, date_time_utc, volume, volume_unit FROM water_intake",
    "read all users": "SELECT id, email, NULL FROM users",
}
_NEW = {
    "insert": "INSERT INTO water_intake (user_id, recorded_at, volume_ml)"
    " VALUES (%(user)s, %(at)s, %(millilitres)s) RETURNING id",
    "upsert": "INSERT INTO water_intake (user_id, recorded_at, volume_ml)"
    " VALUES (%(user)s, %(at)s, %(millilitres)s)"
    " ON CONFLICT (user_id, recorded_at) DO UPDATE SET volume_ml = EXCLUDED.volume_ml RETURNING id",
    "set volume": "UPDATE water_intake SET volume_ml = %(millilitres)s WHERE id = %(id)s",
    "set time": "UPDATE water_intake SET recorded_at = %(at)s WHERE id = %(id)s",
    "read": "SELECT id, recorded_at, volume_ml FROM water_intake WHERE user_id = %(user)s",
    "read user": "SELECT email, notification_enabled FROM users WHERE id = %(user)s",
    "read all": "SELECT user_id, id, recorded_at, volume_ml FROM water_intake",
    "read all users": "SELECT id, email, notification_enabled FROM users",
    "set notification": "UPDATE users SET notification_enabled = %(notification)s WHERE id = %(user)s",
}
_BOTH = {
    "move": "UPDATE water_intake SET user_id = %(user)s WHERE id = %(id)s",
    "renumber": "UPDATE water_intake SET id = %(number)s WHERE id = %(id)s",
    "delete": "DELETE FROM water_intake WHERE id = %(id)s",
    "create user": "INSERT INTO users (id, email, password_hash) VALUES (%(user)s, %(email)s, 'none')",
    "set email": "UPDATE users SET email = %(email)s, updated_at = now() WHERE id = %(user)s",
    "delete user": "DELETE FROM users WHERE id = %(user)s",
}
TEXTS: Mapping[ShapeName, Mapping[str, str]] = MappingProxyType({"old": _OLD | _BOTH, "new": _NEW | _BOTH})
"""Statement texts by shape and name."""
