"""Balls whose heights and restitution are learnt from when they bounce.

Eight balls fall from unknown heights; seen are the noisy times of their first
four bounces. One solve has them all, each with its own events, and the gradient
goes through the bounces: to the heights, and to the restitution of the floor.
The table has the fit of the closed form beside. Run it from anywhere:

    python examples/bouncing_ball.py
"""

import argparse
import pathlib

import keras
import numpy as np
import pictures
import tensorflow as tf

import keras_node

GRAVITY = 9.81
HEIGHTS = np.array([0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9])
RESTITUTION = 0.75
NUM_BOUNCES = 4
# Of the times, in seconds.
NOISE = 0.01
# Later than any fourth bounce.
END = 10.0


def solve(heights, restitution, times=(0.0, END)):
    """Returns the results of balls that fall from rest, to the last bounce.

    Args:
        heights: `(batch,)`, in metres.
        restitution: Scalar, the speed behind a bounce over that before it.
        times: As in `odeint`, in seconds.
    """

    def fall(t, y):
        height, speed = tf.unstack(y, axis=1)
        return tf.stack([speed, -GRAVITY * tf.ones_like(height)], axis=1)

    def reflect(t, y):
        height, speed = tf.unstack(y, axis=1)
        return tf.stack([height, -restitution * speed], axis=1)

    bounce = keras_node.Event(
        lambda t, y: y[:, 0],
        direction=-1,
        reset=reflect,
        max_events=NUM_BOUNCES,
    )
    y0 = tf.stack([heights, tf.zeros_like(heights)], axis=1)
    return keras_node.odeint(fall, y0, times, events=bounce)


def bounce_times(heights, restitution):
    """Returns the closed form, `(bounces, batch)`."""
    powers = restitution ** np.arange(1, NUM_BOUNCES)
    flights = np.concatenate([[1.0], 2.0 * powers])
    return np.cumsum(flights)[:, None] * np.sqrt(2.0 * heights / GRAVITY)


def observe(seed):
    """Returns noisy times of the bounces."""
    exact = bounce_times(HEIGHTS, RESTITUTION)
    noise = np.random.default_rng(seed).normal(size=exact.shape)
    return exact + NOISE * noise


def learn(observed, num_steps):
    """Learns heights and restitution from times, by Adam through the solve."""
    log_heights = tf.Variable(np.zeros_like(HEIGHTS))
    logit = tf.Variable(np.float64(0.0))
    decay = keras.optimizers.schedules.CosineDecay(0.1, num_steps)
    optimizer = keras.optimizers.Adam(decay)

    def parameters():
        return tf.exp(log_heights), tf.sigmoid(logit)

    @tf.function(autograph=False)
    def gradients():
        with tf.GradientTape() as tape:
            times = solve(*parameters()).event_times
            loss = tf.reduce_mean(((times - observed) / NOISE) ** 2)
        return tape.gradient(loss, [log_heights, logit])

    for _ in range(num_steps):
        optimizer.apply(gradients(), [log_heights, logit])
    return [parameter.numpy() for parameter in parameters()]


def fit_closed_form(observed):
    """Returns the least squares of the closed form, over a fine grid.

    For one restitution the roots of the heights are linear in the times.
    """
    best = None
    for restitution in np.linspace(0.5, 1.0, 50_001):
        units = bounce_times(np.ones(1), restitution)
        roots = (units * observed).sum(axis=0) / (units**2).sum()
        loss = ((units * roots - observed) ** 2).sum()
        if best is None or loss < best[0]:
            best = loss, roots**2, restitution
    return best[1:]


def draw(heights, restitution, observed, path):
    """Draws the learnt flights, and the times at which bounces were seen."""
    times = np.linspace(0.0, 3.0, 601)
    results = solve(tf.constant(heights), restitution, times)
    ends = results.event_times[-1].numpy()
    figure = pictures.new(7, 3.5)
    axis = figure.subplots()
    for i, color in ((0, "C0"), (3, "C2"), (7, "C1")):
        height = results.states[:, i, 0].numpy()
        flies = times <= ends[i]
        axis.plot(times[flies], height[flies], c=color)
        axis.plot(
            observed[:, i], np.zeros(NUM_BOUNCES), "o", c=color, clip_on=False
        )
        axis.plot(0.0, HEIGHTS[i], "x", c=color, clip_on=False)
    axis.set(
        xlabel="time, s",
        ylabel="height, m",
        ylim=(0.0, None),
        xlim=(0.0, None),
        title="three of the balls: flights learnt, bounces seen, true heights",
    )
    pictures.save(figure, path)


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n", maxsplit=1)[0]
    )
    parser.add_argument("--steps", type=int, default=1000, help="of Adam")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="little of all")
    parser.add_argument(
        "--output", type=pathlib.Path, default="bouncing_ball.png"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        arguments.steps = 5
    return arguments


def main(argv=None):
    arguments = parse_arguments(argv)
    observed = observe(arguments.seed)
    heights, restitution = learn(observed, arguments.steps)
    theirs, closed = fit_closed_form(observed)
    print(f"{'':12}{'true':>10}{'learnt':>10}{'closed form':>13}")
    rows = [("restitution", RESTITUTION, restitution, closed)]
    for i, height in enumerate(HEIGHTS):
        rows.append((f"height {i + 1}", height, heights[i], theirs[i]))
    for name, true, learnt, fitted in rows:
        print(f"{name:12}{true:10.4f}{learnt:10.4f}{fitted:13.4f}")
    draw(heights, restitution, observed, arguments.output)
    return rows


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
