-- One row per distinct text and label of a dataset. A text that has different labels is left out with
-- all of its copies, because no label can be trusted. Of texts that differ only in what `normalized`
-- strips, the first of each label is kept: where they have different labels, these hang on what is
-- stripped, as in '5' and '-5' or in '*' and '***'.
WITH agreed AS (
    SELECT *
    FROM stg_examples
    QUALIFY count(DISTINCT label_id) OVER (PARTITION BY dataset, input) = 1
)
SELECT
    example_id,
    dataset,
    role,
    agreed.task_type,
    split,
    input,
    label,
    label_id,
    normalized
FROM agreed
JOIN catalog_datasets USING (dataset)
QUALIFY
    row_number() OVER (PARTITION BY dataset, normalized, label_id ORDER BY example_id) = 1
ORDER BY example_id
