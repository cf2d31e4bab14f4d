"What a table may claim: scores packed and unpacked, paired intervals, the choice of a learning rate, any results file as rows."
import math, random, statistics
import pytest
from deq_irnn.results import (at_equal_time, best_trial, csv_text, difference, epoch_seconds, packed, paired_table, plain_tables, plural, score_matrix, student,
                              study_rows, table, trials_table, unpacked)

def results(**models):
    "Made-up results: name → a list of scores for each seed."
    def run(name, seed, scores):
        return dict(model=name, seed=seed, status='finished', parameters=9, hidden=4, lr=.1, transition=None, gradient=None, trace=None, scores=packed(scores),
                    history=[dict(epoch=0, metric=statistics.fmean(scores), seconds=2., train_loss=1.)])
    return dict(plan=dict(models=[*models], hidden=4, params=None, epochs=1, lr=[.1, .2], trial_epochs=3), machine=dict(workers=1, threads=1, cores=2),
                task=dict(name='x', length=3, metric_name='accuracy', chance=.5, higher_is_better=True),
                runs=[run(name, seed, s) for name, seeds in models.items() for seed, s in enumerate(seeds)])

@pytest.mark.parametrize('scores', [[], [1], [0, 0, 0], [0, 1]*50, [1.]*7])
def test_bits_survive(scores): assert unpacked(packed(scores)) == scores

def test_other_scores_keep_four_digits():
    assert unpacked(packed([1/3, 1e-9, 1])) == [.3333, 1e-9, 1] and math.isnan(unpacked([None])[0])

def test_ten_thousand_bits_are_small():
    bits = [random.Random(0).random() < .9 for _ in range(10_000)]
    assert len(packed(bits)) < 2600 and unpacked(packed(bits)) == bits

def test_the_interval_by_hand():
    "Two seeds, four samples: means of seeds 1/4 and 3/4; means of samples 1, 1/2, 1/2, 0."
    made = results(a=[[1, 0, 0, 0], [1, 1, 1, 0]], b=[[0]*4]*2)
    d = difference(made, 'a', 'b')
    seeds, samples = .125/2, statistics.variance([1, .5, .5, 0])/4
    freedom = (seeds + samples)**2/(seeds**2 + samples**2/3)
    half = student(freedom)*math.sqrt(seeds + samples)
    assert d['mean'] == .5 and d['high'] - .5 == pytest.approx(half) and (d['seeds'], d['samples']) == (2, 4)
    other = difference(made, 'b', 'a')
    assert other['mean'] == -.5 and other['high'] == pytest.approx(-d['low'])

def test_pairs_are_of_the_same_seed():
    made = results(a=[[1, 1], [0, 0]], b=[[1, 1], [0, 0]])
    assert difference(made, 'a', 'b') == dict(mean=0, low=0, high=0, seeds=2, samples=2)
    assert difference(results(a=[[1, 1]], b=[[1, 0]]), 'a', 'b') is None                      # one seed tells nothing
    made['runs'][0].pop('scores')
    assert difference(made, 'a', 'b') is None                                                 # an older file
    with pytest.raises(ValueError, match="'a'.*two seeds"): paired_table(made, 'a')

def test_verdicts():
    g = random.Random(1)
    def seeds(p): return [[int(g.random() < p) for _ in range(300)] for _ in range(5)]
    made = results(good=seeds(.9), same=seeds(.6), base=seeds(.6), bad=seeds(.2))
    lines = {line.split('|')[1].strip(): line for line in paired_table(made, 'base').splitlines()[2:5]}
    assert 'better' in lines['good'] and 'worse' in lines['bad'] and 'not told apart' in lines['same']
    made['task']['higher_is_better'] = False
    assert 'worse' in next(line for line in paired_table(made, 'base').splitlines() if 'good' in line)

def test_times_apart_replace_those_of_training():
    made = results(a=[[1, 0]], b=[[0, 0]])
    assert epoch_seconds(made, 'a') == 2 and 'on one process of 1 thread' in table(made)
    made['times'] = dict(a=dict(epoch=.5), b=dict(epoch=1.))
    assert epoch_seconds(made, 'a') == .5 and 'measured apart' in table(made)
    assert at_equal_time(made) == {'a': [.5]}                                                 # b's only epoch takes longer

def test_the_choice_of_a_rate():
    def t(lr, metric, loss=1., status='finished'): return dict(model='a', parameters=1, lr=lr, metric=metric, loss=loss, status=status)
    assert best_trial([t(1, .5), t(2, .7), t(3, .7, .5)], True)['lr'] == 3 and best_trial([t(1, .5), t(2, .7)], False)['lr'] == 1
    assert best_trial([t(1, None, None, 'diverged')], True) is None and best_trial([], True) is None
    made = dict(results(a=[[1, 0]]), trials=[t(.1, None, None, 'diverged'), t(.2, .5)])
    assert '0.2 (edge)' in trials_table(made) and 'diverged' in trials_table(made) and trials_table(results(a=[[1]])) == ''

def test_side_by_side_and_for_a_spreadsheet():
    one, two = results(a=[[1, 0]], b=[[0, 0]]), results(b=[[1, 1]], c=[[1, 0]])
    lines = score_matrix({'one': one, 'two': two}).splitlines()
    assert [line.split('|')[1].strip() for line in lines[2:]] == ['a', 'b', 'c'] and '–' in lines[2] and '–' in lines[4]
    rows = csv_text({'one': study_rows(one), 'two': study_rows(two)}).splitlines()
    assert len(rows) == 5 and rows[1].startswith('one,x,3,a,0,finished,9,4,0.1,1,accuracy,0.5,2.0')
    assert csv_text({'a': [dict(x=1)], 'b': [dict(y='1,2')]}).splitlines() == ['file,x,y', 'a,1,', 'b,,"1,2"']

def test_plurals(): assert [plural(1, 'seed'), plural(2, 'seed'), plural(2, 'process'), plural(1, 'process')] == ['1 seed', '2 seeds', '2 processes', '1 process']

def test_rows_of_anything():
    text = plain_tables(dict(what='w', rows=[dict(n=1, t=dict(median=.5, min=0)), dict(n=2, more=dict(x=None))], other=3, runs=[]))
    assert text.startswith('w') and '0.5' in text and 'more.x' in text and 'min' not in text
    for wrong in ([], {}, dict(rows=[]), dict(rows=[1]), 3):
        with pytest.raises(ValueError): plain_tables(wrong)

@pytest.mark.parametrize('freedom, level, known', [(1, .95, 12.7062), (2, .95, 4.30265), (3, .95, 3.18245), (4, .99, 4.60409), (2.5, .95, 3.57465), (1e6, .95, 1.95997)])
def test_student_with_few_seeds(freedom, level, known):
    "Two seeds leave one degree of freedom: there a series in 1/ν is a quarter too short."
    assert student(freedom, level) == pytest.approx(known, rel=2e-5)
