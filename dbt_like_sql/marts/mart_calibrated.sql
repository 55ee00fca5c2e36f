-- The classification benchmarks with the labels ranked as they are ('raw') and calibrated, and where it was
-- asked by channel, over all sets and set by set: a gain that calibration takes away was the bias of a label.
SELECT
    benchmark,
    setting,
    dataset,
    CASE measure WHEN 'accuracy' THEN 'raw' ELSE measure END AS choice,
    * EXCLUDE (level, benchmark, setting, dataset, measure, flipped_percent, category)
FROM int_scores
WHERE measure IN ('accuracy', 'calibrated', 'channel')
    AND level IN ('all', 'dataset')
    AND benchmark IN ('icl', 'flipped')
ORDER BY benchmark, setting, model, dataset NULLS FIRST, choice DESC, variant
