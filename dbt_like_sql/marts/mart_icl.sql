-- In-context learning, set by set.
SELECT * EXCLUDE (level, flipped_percent, category)
FROM int_scores
WHERE benchmark = 'icl' AND level = 'dataset'
ORDER BY partition, setting, dataset, model
