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
    -- Copies are equal in this, and no text of tuning may be equal in it to one of evaluation. It is
    -- not for finding wrong labels: '-5' and '5' are equal in it. Symbols such as + and | stay: they
    -- carry meaning, and | keeps the parts of a pair apart. Digits and the order of words stay, since
    -- labels hang on them. Of 42,226 rows of the mirror experiment, 70 are another row in a different
    -- order of words and 6 with different digits; 34 of these 70 groups disagree on the label, such as
    -- 'Water filled the cup' and 'The cup filled water' in CoLA. Neither key finds a further
    -- evaluation text in a tuning set.
    coalesce(
        nullif(regexp_replace(lower(strip_accents(input)), '[\s\p{P}\p{Sk}\p{Cf}]+', '', 'g'), ''),
        input
    ) AS normalized
FROM cleaned
WHERE input <> ''
ORDER BY example_id
