-- What tuning may see: training rows of the tuning sets, without any text that an evaluation set
-- holds too, and at most `cap` per dataset, picked by a hash that `seed` varies.
WITH allowed AS (
    SELECT *
    FROM int_examples
    WHERE
        role = 'tuning'
        AND split = 'train'
        AND normalized NOT IN (SELECT normalized FROM int_examples WHERE role = 'evaluation')
),
capped AS (
    SELECT *
    FROM allowed
    QUALIFY
        row_number() OVER (
            PARTITION BY dataset
            ORDER BY md5(concat(getvariable('seed'), ':', example_id))
        ) <= getvariable('cap')
)
SELECT
    (row_number() OVER (ORDER BY dataset, example_id) - 1)::UINTEGER AS example,
    example_id,
    dataset,
    task_type,
    input,
    label,
    label_id
FROM capped
ORDER BY example
