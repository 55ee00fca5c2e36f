-- The benchmarks whose concepts have categories, category by category.
SELECT * EXCLUDE (level, flipped_percent, dataset)
FROM int_scores
WHERE level = 'category' AND category IS NOT NULL
ORDER BY benchmark, model, setting, category, variant
