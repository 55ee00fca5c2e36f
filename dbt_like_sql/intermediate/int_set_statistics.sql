-- What became of every raw row of every dataset, and what the kept rows look like. The counts of a
-- row add up: raw = kept + empty + duplicate + conflict + other_split + contaminated + capped.
WITH kept AS (
    SELECT example_id, dataset, input, label_id FROM int_tuning_examples
    UNION ALL
    SELECT example_id, dataset, input, label_id FROM int_evaluation_examples
),
staged AS (
    SELECT *, count(DISTINCT label_id) OVER (PARTITION BY dataset, input) > 1 AS conflicting
    FROM stg_examples
),
fates AS (
    SELECT
        raw_examples.dataset,
        CASE
            WHEN kept.example_id IS NOT NULL THEN 'kept'
            WHEN staged.example_id IS NULL THEN 'empty'
            WHEN staged.conflicting THEN 'conflict'
            WHEN survivor.example_id <> raw_examples.example_id THEN 'duplicate'
            WHEN survivor.split <> 'train' THEN 'other_split'
            WHEN survivor.normalized IN (
                SELECT normalized FROM int_examples WHERE role = 'evaluation'
            ) THEN 'contaminated'
            ELSE 'capped'
        END AS fate
    FROM raw_examples
    LEFT JOIN kept ON kept.example_id = raw_examples.example_id
    LEFT JOIN staged ON staged.example_id = raw_examples.example_id
    LEFT JOIN int_examples AS survivor
        ON survivor.dataset = staged.dataset
        AND survivor.normalized = staged.normalized
        AND survivor.label_id = staged.label_id
),
counts AS (
    SELECT
        dataset,
        count(*) AS raw,
        count(*) FILTER (WHERE fate = 'kept') AS kept,
        count(*) FILTER (WHERE fate = 'empty') AS empty,
        count(*) FILTER (WHERE fate = 'duplicate') AS duplicate,
        count(*) FILTER (WHERE fate = 'conflict') AS conflict,
        count(*) FILTER (WHERE fate = 'other_split') AS other_split,
        count(*) FILTER (WHERE fate = 'contaminated') AS contaminated,
        count(*) FILTER (WHERE fate = 'capped') AS capped
    FROM fates
    GROUP BY dataset
),
class_sizes AS (
    SELECT dataset, label_id, count(*) AS size
    FROM kept
    GROUP BY dataset, label_id
),
classes AS (
    SELECT dataset, count(*) AS classes, min(size) / sum(size) AS smallest_class_share
    FROM class_sizes
    GROUP BY dataset
),
lengths AS (
    SELECT
        dataset,
        avg(length(input)) AS mean_characters,
        max(length(input)) AS max_characters,
        avg(len(string_split(input, ' '))) AS mean_words,
        max(len(string_split(input, ' '))) AS max_words
    FROM kept
    GROUP BY dataset
)
SELECT
    catalog_datasets.dataset,
    role,
    coalesce(raw, 0) AS raw,
    coalesce(counts.kept, 0) AS kept,
    coalesce(empty, 0) AS empty,
    coalesce(duplicate, 0) AS duplicate,
    coalesce(conflict, 0) AS conflict,
    coalesce(other_split, 0) AS other_split,
    coalesce(contaminated, 0) AS contaminated,
    coalesce(capped, 0) AS capped,
    coalesce(classes, 0) AS classes,
    smallest_class_share,
    mean_characters,
    max_characters,
    mean_words,
    max_words
FROM catalog_datasets
LEFT JOIN counts USING (dataset)
LEFT JOIN classes USING (dataset)
LEFT JOIN lengths USING (dataset)
ORDER BY catalog_datasets.dataset
