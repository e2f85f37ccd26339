//! Medians, ratios and how far rounds lie apart.

/// The middle of some values; `None` of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

/// How far the values lie apart, as a part of their median: 0.1 is 10 %.
pub fn spread(values: &[f64]) -> Option<f64> {
    let highest = values.iter().copied().max_by(f64::total_cmp)?;
    let lowest = values.iter().copied().min_by(f64::total_cmp)?;
    let middle = median(values)?;
    (middle > 0.0).then(|| (highest - lowest) / middle)
}

/// The median of the ratios within each round: what slows a whole round down does not count.
pub fn ratio(values: &[Option<f64>], references: &[Option<f64>]) -> Option<f64> {
    let ratios: Vec<_> = values
        .iter()
        .zip(references)
        .filter_map(|(value, reference)| Some((*value)? / (*reference).filter(|reference| *reference > 0.0)?))
        .collect();
    median(&ratios)
}

#[cfg(test)]
#[allow(clippy::float_cmp, reason = "small integers and halves are exact")]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_values() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(spread(&[90.0, 100.0, 110.0]), Some(0.2));
        assert_eq!(spread(&[5.0]), Some(0.0));
        assert_eq!(spread(&[0.0, 0.0]), None);
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The second round was slow for both.
        let ours = [Some(200.0), Some(100.0), Some(210.0)];
        let theirs = [Some(100.0), Some(50.0), Some(100.0)];
        assert_eq!(ratio(&ours, &theirs), Some(2.0));
    }

    #[test]
    fn rounds_that_failed_have_no_ratio() {
        assert_eq!(
            ratio(&[Some(1.0), None, Some(3.0)], &[None, Some(2.0), Some(1.0)]),
            Some(3.0)
        );
        assert_eq!(ratio(&[Some(1.0)], &[Some(0.0)]), None);
    }
}
