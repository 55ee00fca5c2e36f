-- Variants that differ in the seed alone, taken together, against the untuned model: the mean over seeds, how
-- far seeds lie apart, and an interval over seeds and draws of exemplars at once. Of one seed it has no row.
WITH asked AS (
    SELECT *, concat(dataset, '/', context) AS draw
    FROM int_outcomes
    WHERE measure IN ('accuracy', 'calibrated')
),
cells AS (
    SELECT
        theirs.model, theirs.benchmark, theirs.setting, theirs.flipped_percent, theirs.measure,
        catalog_variants.recipe, theirs.variant, theirs.draw,
        count(*) AS n,
        count(*) FILTER (WHERE theirs.correct) AS correct,
        count(*) FILTER (WHERE theirs.correct AND NOT untuned.correct) AS won,
        count(*) FILTER (WHERE untuned.correct AND NOT theirs.correct) AS lost
    FROM asked AS theirs
    INNER JOIN asked AS untuned USING (model, benchmark, setting, measure, dataset, context, query)
    INNER JOIN catalog_variants ON catalog_variants.variant = theirs.variant
    WHERE untuned.variant = 'untuned'
    GROUP BY ALL
),
seeds AS (
    SELECT
        * EXCLUDE (draw, n, correct, won, lost),
        sum(n)::BIGINT AS n,
        sum(correct) / sum(n) AS accuracy,
        sum(won - lost) / sum(n) AS gain,
        count(*) AS draws,
        list(n ORDER BY draw) AS n_by_draw,
        list(correct ORDER BY draw) AS correct_by_draw,
        list(won - lost ORDER BY draw) AS gain_by_draw
    FROM cells
    GROUP BY ALL
),
recipes AS (
    SELECT
        * EXCLUDE (variant, n, accuracy, gain, draws, n_by_draw, correct_by_draw, gain_by_draw),
        count(*) AS seeds,
        min(n) AS n,
        min(draws) AS draws,
        avg(accuracy) AS accuracy,
        stddev_samp(accuracy) AS accuracy_spread,
        avg(gain) AS gain,
        stddev_samp(gain) AS gain_spread,
        -- Seed by seed; every seed was asked the same draws.
        flatten(list(n_by_draw ORDER BY variant)) AS n_by_cell,
        flatten(list(correct_by_draw ORDER BY variant)) AS correct_by_cell,
        flatten(list(gain_by_draw ORDER BY variant)) AS gain_by_cell
    FROM seeds
    GROUP BY ALL
)
SELECT
    model,
    benchmark,
    setting,
    measure,
    recipe,
    seeds,
    n,
    accuracy,
    accuracy_spread,
    CASE WHEN draws >= 10 THEN crossed_low(correct_by_cell, n_by_cell, seeds) END AS low,
    CASE WHEN draws >= 10 THEN crossed_high(correct_by_cell, n_by_cell, seeds) END AS high,
    gain,
    gain_spread,
    CASE WHEN draws >= 10 THEN crossed_low(gain_by_cell, n_by_cell, seeds) END AS gain_low,
    CASE WHEN draws >= 10 THEN crossed_high(gain_by_cell, n_by_cell, seeds) END AS gain_high
FROM recipes
WHERE seeds > 1
ORDER BY model, benchmark, flipped_percent, setting, measure, recipe
