-- Nothing may be lost.
DO $$
DECLARE
    old_count bigint;
    new_count bigint;
BEGIN
    SELECT count(*) INTO old_count FROM water_intake;
    SELECT count(*) INTO new_count FROM water_intake_v2;
    IF old_count <> new_count THEN
        RAISE EXCEPTION 'water_intake has % rows, water_intake_v2 has %', old_count, new_count;
    END IF;
END $$;

DO $$
BEGIN
    IF EXISTS (SELECT FROM water_intake_v2 AS v LEFT JOIN users AS u ON u.id = v.user_id WHERE u.id IS NULL) THEN
        RAISE EXCEPTION 'there are intakes of nobody';
    END IF;
END $$;
