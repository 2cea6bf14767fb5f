CREATE INDEX CONCURRENTLY idx_intake_v2_user_recorded ON water_intake_v2 (user_id, recorded_at DESC);
CREATE INDEX CONCURRENTLY idx_intake_recent ON water_intake (user_id, date_time_utc)
    WHERE date_time_utc >= CURRENT_DATE - INTERVAL '90 days';
