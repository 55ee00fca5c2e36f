-- Whether a variant tends to one label whatever the query is: the share of the commonest choice among the
-- queries of a context, beside that of the commonest target. A context of one query tells nothing.
WITH contexts AS (
    SELECT
        setting,
        model,
        variant,
        dataset,
        context,
        count(*) AS n,
        list_max(map_values(histogram(prediction))) AS choices,
        list_max(map_values(histogram(target))) AS targets
    FROM eval_icl
    GROUP BY ALL
    HAVING count(*) > 1
)
SELECT
    'icl' AS benchmark,
    setting,
    model,
    variant,
    dataset,
    sum(n)::BIGINT AS n,
    sum(choices) / sum(n) AS commonest_choice,
    sum(targets) / sum(n) AS commonest_target
FROM contexts
GROUP BY GROUPING SETS ((setting, model, variant), (setting, model, variant, dataset))
ORDER BY setting, model, variant, dataset NULLS FIRST
