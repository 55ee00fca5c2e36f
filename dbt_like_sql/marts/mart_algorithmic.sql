-- List functions and Turing concepts, category by category.
SELECT * EXCLUDE (level, flipped_percent, dataset)
FROM int_scores
WHERE benchmark IN ('list_functions', 'turing_concepts') AND level = 'category'
ORDER BY benchmark, model, setting, category, variant
