-- Every raw example with its text cleaned: one Unicode form (NFC), one space wherever there was
-- white space or a control character, none at the ends. Rows without any text are dropped.
WITH cleaned AS (
    SELECT
        * REPLACE (
            trim(regexp_replace(nfc_normalize(input), '[\s\p{Z}\p{Cc}]+', ' ', 'g')) AS input
        )
    FROM raw_examples
)
SELECT
    example_id,
    dataset,
    task_type,
    split,
    input,
    label,
    label_id,
    -- Symbols such as + and | stay: they carry meaning, and | keeps the parts of a pair apart.
    coalesce(
        nullif(regexp_replace(lower(strip_accents(input)), '[\s\p{P}\p{Sk}\p{Cf}]+', '', 'g'), ''),
        input
    ) AS normalized
FROM cleaned
WHERE input <> ''
ORDER BY example_id
