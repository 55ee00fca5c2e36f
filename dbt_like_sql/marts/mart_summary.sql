-- Every setting of every benchmark in one figure per variant: what the report opens with.
SELECT * EXCLUDE (level, measure, dataset, category)
FROM int_scores
WHERE measure = 'accuracy' AND level = 'all'
ORDER BY benchmark, flipped_percent, setting, model, variant
