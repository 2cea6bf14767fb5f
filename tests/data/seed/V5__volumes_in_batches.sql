-- Batches, each committed by itself: so it was meant.
DO $$
DECLARE
    done bigint;
BEGIN
    LOOP
        UPDATE water_intake_v2 AS v
           SET volume_ml = CASE o.volume_unit WHEN 'OZ' THEN o.volume * 29.5735 ELSE o.volume END
          FROM water_intake AS o
         WHERE o.id = v.id AND v.id IN (SELECT id FROM water_intake_v2 WHERE volume_ml IS NULL LIMIT 1000);
        GET DIAGNOSTICS done = ROW_COUNT;
        EXIT WHEN done = 0;
        COMMIT;
    END LOOP;
END $$;
