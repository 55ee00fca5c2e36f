-- What choices follow where labels are flipped: the true label, the variant's own choice without
-- exemplars (the prior), or the flipped label (the prompt), and how often the prompt wins where the prior
-- is true (the override rate). Over all sets, and over those with two labels.
SELECT
    level AS sets,
    benchmark,
    setting,
    flipped_percent,
    CASE measure WHEN 'accuracy' THEN 'prompt' ELSE measure END AS measure,
    model,
    variant,
    n,
    correct AS following,
    accuracy AS share,
    * EXCLUDE (
        level, benchmark, setting, flipped_percent, measure, model, variant, dataset, category,
        n, correct, accuracy, ece
    )
FROM int_scores
WHERE benchmark = 'flipped'
    AND level IN ('all', 'two labels')
    AND measure NOT IN ('calibrated', 'channel')
ORDER BY sets, model, flipped_percent, setting, measure, variant
