-- The benchmarks whose concepts have categories, category by category.
SELECT * EXCLUDE (level, measure, flipped_percent, dataset)
FROM int_scores
WHERE measure = 'accuracy' AND level = 'category' AND category IS NOT NULL
ORDER BY benchmark, model, setting, category, variant
