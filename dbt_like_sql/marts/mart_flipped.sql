-- Flipped labels over all sets, at each share of flipped labels.
SELECT * EXCLUDE (level, measure, dataset, category)
FROM int_scores
WHERE benchmark = 'flipped' AND measure = 'accuracy' AND level = 'all'
ORDER BY model, flipped_percent, setting, variant
