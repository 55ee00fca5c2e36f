-- How often each class was answered where each class was right, dataset by dataset. Classes have their names in
-- the dataset, whatever symbols a prompt showed for them. More than eight classes make no table to read.
WITH classes AS (
    SELECT DISTINCT model, dataset, labels AS names
    FROM eval_icl
    WHERE starts_with(setting, 'relevant labels') AND len(labels) <= 8
),
asked AS (
    SELECT DISTINCT setting, model, variant, dataset FROM eval_icl
),
cells AS (
    SELECT
        asked.*,
        unnest(range(len(names))) AS target,
        names
    FROM asked
    INNER JOIN classes USING (model, dataset)
),
grid AS (
    SELECT
        * EXCLUDE (names),
        unnest(range(len(names))) AS prediction,
        names
    FROM cells
),
counted AS (
    SELECT setting, model, variant, dataset, target, prediction, count(*) AS n
    FROM eval_icl
    GROUP BY ALL
)
SELECT
    'icl' AS benchmark,
    setting,
    model,
    variant,
    dataset,
    names[target + 1] AS target,
    names[prediction + 1] AS prediction,
    coalesce(n, 0) AS n
FROM grid
LEFT JOIN counted USING (setting, model, variant, dataset, target, prediction)
ORDER BY setting, model, variant, dataset, grid.target, grid.prediction
