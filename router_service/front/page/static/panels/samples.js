// Texts of several kinds to begin with.

export const SAMPLES = [
  ["code", `def merge(left, right):
    """Return one sorted list of two sorted lists."""
    result = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            result.append(left[i])
            i += 1
        else:
            result.append(right[j])
            j += 1
    result.extend(left[i:])
    result.extend(right[j:])
    return result


class Counter:
    def __init__(self, start=0):
        self.value = start

    def add(self, amount=1):
        self.value += amount
        return self.value
`],
  ["prose", `The ferry left the harbour before the fog had lifted. On deck, a woman in a grey coat held a basket of pears \
on her knees and watched the lights of the town grow small. Nobody spoke. Somewhere below, the engine kept its slow and \
patient time, and each of its beats ran through the boards into the soles of our shoes. When the sun came through at \
last, the water was the colour of old tin, and the island lay ahead of us like something that had been there the whole \
night, waiting to be noticed.
`],
  ["mathematics", `Let f(x) = x^3 - 3x + 1. Then f'(x) = 3x^2 - 3 = 3(x - 1)(x + 1), so f has critical points at x = -1 and x = 1. \
Since f(-1) = 3 > 0 and f(1) = -1 < 0, the equation f(x) = 0 has three real roots. For n >= 1, the sum 1 + 2 + ... + n = \
n(n + 1)/2; by induction, if the formula holds for n, then (n(n + 1))/2 + (n + 1) = (n + 1)(n + 2)/2. The integral of \
x^2 from 0 to 1 is 1/3. If a^2 + b^2 = c^2 and gcd(a, b) = 1, then one of a, b is even.
`],
  ["French", `Le matin, la boulang\u00e8re ouvre les volets et pose les pains encore chauds sur l'\u00e9tag\u00e8re. Les premiers clients \
arrivent avant huit heures : un facteur press\u00e9, deux \u00e9coliers qui comptent leurs pi\u00e8ces, une vieille dame avec son \
chien. On parle du temps, du march\u00e9, de la rivi\u00e8re qui monte. Vers midi, la rue devient calme et l'odeur du caf\u00e9 \
remplace celle du pain. Demain, tout recommencera, presque pareil, et personne ne s'en plaindra.
`],
];
