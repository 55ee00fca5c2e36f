-- One row per distinct text of a dataset. Of copies that agree on the label the first is kept; of
-- copies that disagree none, because no label can be trusted.
SELECT
    example_id,
    dataset,
    role,
    stg_examples.task_type,
    split,
    input,
    label,
    label_id,
    normalized
FROM stg_examples
JOIN catalog_datasets USING (dataset)
WINDOW copies AS (PARTITION BY dataset, normalized)
QUALIFY
    count(DISTINCT label_id) OVER copies = 1
    AND row_number() OVER (copies ORDER BY example_id) = 1
ORDER BY example_id
