INSERT INTO users (id, public_id, email, password_hash, created_at, updated_at)
SELECT n, md5('user ' || n)::uuid, 'person' || n || '@example.com', 'none', '2025-01-01', '2025-01-01'
FROM generate_series(1, 200) AS n;

-- Intakes of a user have the user's number, and 1,000,000 times 1 to 3 more.
INSERT INTO water_intake (id, user_id, date_time_utc, volume, volume_unit, created_at)
SELECT n + more * 1000000, n, timestamp '2025-01-01' + more * interval '1 day' + n * interval '1 second',
       CASE WHEN n % 8 = 0 THEN 8 ELSE 100 + n END, CASE WHEN n % 8 = 0 THEN 'OZ' ELSE 'ML' END, '2025-01-01'
FROM generate_series(1, 200) AS n, generate_series(1, 3) AS more;
