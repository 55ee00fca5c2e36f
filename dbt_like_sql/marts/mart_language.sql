-- What tuning does to plain language: the loss of each variant on held-out texts, over all sets and set
-- by set, and how much it is above the untuned variant's on the same texts.
WITH texts AS (
    SELECT
        level,
        losses.model,
        losses.variant,
        CASE WHEN level = 'dataset' THEN losses.dataset END AS dataset,
        losses.example,
        losses.tokens,
        losses.nats,
        CASE
            WHEN losses.variant = 'tuned'
                THEN max(losses.nats) FILTER (WHERE losses.variant = 'untuned') OVER same_text
        END AS untuned_nats
    FROM eval_language AS losses
    CROSS JOIN (VALUES ('all'), ('dataset')) AS levels (level)
    WHERE losses.tokens > 0  -- of one token nothing may be predicted
    WINDOW same_text AS (PARTITION BY level, losses.model, losses.example)
),
counts AS (
    SELECT
        model,
        variant,
        dataset,
        count(*) AS texts,
        sum(tokens)::BIGINT AS tokens,
        sum(nats) AS nats,
        sum(nats - untuned_nats) AS more,
        sum(tokens) FILTER (WHERE untuned_nats IS NOT NULL) AS paired_tokens,
        list(nats ORDER BY example) AS nats_by_text,
        list(tokens::DOUBLE ORDER BY example) AS tokens_by_text,
        list(nats - untuned_nats ORDER BY example) FILTER (WHERE untuned_nats IS NOT NULL)
            AS more_by_text,
        list(tokens::DOUBLE ORDER BY example) FILTER (WHERE untuned_nats IS NOT NULL)
            AS paired_by_text
    FROM texts
    GROUP BY level, model, variant, dataset
)
SELECT
    model,
    variant,
    dataset,
    texts,
    tokens,
    nats / tokens AS loss,
    CASE WHEN texts >= 10 THEN cluster_low(nats_by_text, tokens_by_text) END AS low,
    CASE WHEN texts >= 10 THEN cluster_high(nats_by_text, tokens_by_text) END AS high,
    more / paired_tokens AS change,
    CASE WHEN len(more_by_text) >= 10 THEN cluster_low(more_by_text, paired_by_text) END
        AS change_low,
    CASE WHEN len(more_by_text) >= 10 THEN cluster_high(more_by_text, paired_by_text) END
        AS change_high
FROM counts
ORDER BY model, dataset NULLS FIRST, variant
