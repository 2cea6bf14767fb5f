ALTER TABLE parcel ADD COLUMN class text CHECK (class IN ('light', 'heavy'));
UPDATE parcel SET class = CASE WHEN gram < 500 THEN 'light' ELSE 'heavy' END;
ALTER TABLE parcel ALTER COLUMN class SET NOT NULL;
ALTER TABLE parcel ADD COLUMN weighed int NOT NULL DEFAULT (random() * 0)::int + 17;
