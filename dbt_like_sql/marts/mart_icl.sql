-- In-context learning, set by set. A setting tests as many gains as it has sets, which Holm's method
-- corrects for: the smallest p times the number of tests, the next times one less, never descending.
WITH ranked AS (
    SELECT
        * EXCLUDE (level, measure, flipped_percent, category),
        p * (count(p) OVER (PARTITION BY model, setting) - rank() OVER tests + 1) AS product
    FROM int_scores
    WHERE benchmark = 'icl' AND measure = 'accuracy' AND level = 'dataset'
    WINDOW tests AS (PARTITION BY model, setting ORDER BY p)
)
SELECT
    * EXCLUDE (product),
    CASE
        WHEN p IS NOT NULL
            THEN least(1, max(product) OVER (PARTITION BY model, setting ORDER BY p))
    END AS p_holm
FROM ranked
ORDER BY model, setting, dataset, variant
