-- Outcomes become figures here and nowhere else, at four levels: over a whole setting ('all'), for each
-- of its datasets or concepts ('dataset'), for each category of concepts ('category'), and of flipped
-- labels over the sets with two of them ('two labels').
WITH levelled AS (
    SELECT
        level,
        outcomes.benchmark,
        outcomes.setting,
        outcomes.measure,
        outcomes.flipped_percent,
        outcomes.model,
        outcomes.variant,
        CASE WHEN level = 'dataset' THEN outcomes.dataset END AS dataset,
        CASE WHEN level = 'category' THEN outcomes.category END AS category,
        -- Outcomes of queries that share their exemplars are no independent trials.
        concat(outcomes.dataset, '/', outcomes.context) AS draw,
        outcomes.correct,
        outcomes.untuned_correct,
        outcomes.chance,
        outcomes.confidence,
        least(floor(outcomes.confidence * 10), 9) AS bin
    FROM int_outcomes AS outcomes
    CROSS JOIN (VALUES ('all'), ('dataset'), ('category'), ('two labels')) AS levels (level)
    WHERE level <> 'two labels' OR (outcomes.benchmark = 'flipped' AND outcomes.chance = 0.5)
),
binned AS (
    SELECT
        *,
        -- Its mean over the outcomes is the expected calibration error.
        abs(avg(confidence - correct::INTEGER) OVER bins) AS miscalibration
    FROM levelled
    WINDOW bins AS (
        PARTITION BY
            level, benchmark, setting, measure, flipped_percent, model, variant, dataset,
            category, bin
    )
),
draws AS (
    SELECT
        * EXCLUDE (correct, untuned_correct, chance, confidence, bin, miscalibration),
        count(*) AS n,
        count(*) FILTER (WHERE correct) AS correct,
        sum(chance) AS chance,
        sum(miscalibration) AS miscalibration,
        count(untuned_correct) AS pairs,
        count(*) FILTER (WHERE correct AND NOT untuned_correct) AS won,
        count(*) FILTER (WHERE untuned_correct AND NOT correct) AS lost
    FROM binned
    GROUP BY ALL
),
counts AS (
    SELECT
        * EXCLUDE (draw, n, correct, chance, miscalibration, pairs, won, lost),
        sum(n)::BIGINT AS n,
        sum(correct)::BIGINT AS correct,
        sum(chance) / sum(n) AS chance,
        sum(miscalibration) / sum(n) AS ece,
        sum(pairs)::BIGINT AS pairs,
        sum(won)::BIGINT AS won,
        sum(lost)::BIGINT AS lost,
        list(n ORDER BY draw) AS n_by_draw,
        list(correct ORDER BY draw) AS correct_by_draw,
        list(pairs ORDER BY draw) FILTER (WHERE pairs > 0) AS pairs_by_draw,
        list(won - lost ORDER BY draw) FILTER (WHERE pairs > 0) AS gain_by_draw
    FROM draws
    GROUP BY ALL
)
SELECT
    * EXCLUDE (
        chance, ece, pairs, won, lost, n_by_draw, correct_by_draw, pairs_by_draw, gain_by_draw
    ),
    correct / n AS accuracy,
    wilson_low(correct, n) AS low,
    wilson_high(correct, n) AS high,
    -- Fewer than ten draws of exemplars do not tell how draws differ.
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_low(correct_by_draw, n_by_draw) END AS cluster_low,
    CASE WHEN len(n_by_draw) >= 10 THEN cluster_high(correct_by_draw, n_by_draw) END AS cluster_high,
    chance,
    ece,
    -- Null without pairs, and so on every row that is not the tuned variant's.
    (won - lost) / nullif(pairs, 0) AS gain,
    paired_low(won, lost, nullif(pairs, 0)) AS gain_low,
    paired_high(won, lost, nullif(pairs, 0)) AS gain_high,
    CASE
        WHEN len(pairs_by_draw) >= 10 THEN cluster_low(gain_by_draw, pairs_by_draw)
    END AS gain_cluster_low,
    CASE
        WHEN len(pairs_by_draw) >= 10 THEN cluster_high(gain_by_draw, pairs_by_draw)
    END AS gain_cluster_high,
    CASE WHEN pairs > 0 THEN mcnemar_p(won, lost) END AS p
FROM counts
ORDER BY level, benchmark, flipped_percent, setting, measure, model, variant, dataset, category
