# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""Which pools an allocation is made of anew."""

from __future__ import annotations

import testtools
from hypothesis import given
from hypothesis import strategies as st

from nova_gpu.model.allotment import allot, free
from nova_gpu.model.claim import Counts, View
from nova_gpu.model.device import Snapshot
from nova_gpu.model.inventory import Inventory, Pool

X, Y = 'CUSTOM_VGPU_X', 'CUSTOM_VGPU_Y'
counts = st.dictionaries(
    st.tuples(st.sampled_from('abc'), st.sampled_from((X, Y))),
    st.integers(0, 4),
).map(Counts)


class AllotTest(testtools.TestCase):
    """Units are taken from the best sources."""

    def test_the_best_first(self) -> None:
        held, all_there = Counts({('a', X): 1}), Counts({('b', X): 9})
        self.assertEqual(
            {('a', X): 1, ('b', X): 2},
            allot({X: 3}, held, held | all_there),
        )

    def test_many_before_few(self) -> None:
        there = Counts({('a', X): 1, ('b', X): 2, ('c', X): 2, ('b', Y): 9})
        self.assertEqual({('b', X): 2}, allot({X: 2}, there))
        self.assertEqual({('b', X): 2, ('c', X): 1}, allot({X: 3}, there))

    def test_less_than_wanted(self) -> None:
        self.assertEqual(
            {('a', X): 1}, allot({X: 2, Y: 1}, Counts({('a', X): 1}))
        )

    @given(
        st.dictionaries(st.sampled_from((X, Y)), st.integers(0, 6)),
        counts,
        counts,
    )
    def test_anything(
        self, wanted: dict[str, int], held: Counts, more: Counts
    ) -> None:
        there = held + more
        found = allot(wanted, held, there)
        self.assertLessEqual(found, there)
        for name, number in wanted.items():
            some = sum(n for key, n in there.items() if key[1] == name)
            got = sum(n for key, n in found.items() if key[1] == name)
            self.assertEqual(min(some, number), got)
        # Nothing that is held is given up for something else.
        for (pool, name), number in (found - held).items():
            self.assertLessEqual(held[pool, name], found[pool, name])
            self.assertGreater(number, 0)
            for other, n in held.items():
                if other[1] == name:
                    self.assertGreaterEqual(found[other], n)


class FreeTest(testtools.TestCase):
    """What Placement could promise."""

    def free(self, **specs: str) -> dict[tuple[str, str], int]:
        pools = tuple(
            Pool(key, 'mdev', (), {X: Inventory(4, 1)}, frozenset(traits))
            for key, traits in (('a', {'GOLD'}), ('b', {'SILVER'}), ('c', ()))
        )
        specs = {k.replace('__', ':'): v for k, v in specs.items()}
        return dict(free(View(Snapshot(), (), pools, ()), specs))

    def test_all(self) -> None:
        everything = dict.fromkeys((('a', X), ('b', X), ('c', X)), 3)
        self.assertEqual(everything, self.free())
        # That is the node's.
        self.assertEqual(everything, self.free(trait__HW_NODE='required'))

    def test_traits_of_pools(self) -> None:
        self.assertEqual({('a', X): 3}, self.free(trait__GOLD='required'))
        self.assertEqual(
            {('b', X): 3, ('c', X): 3}, self.free(trait1__GOLD='forbidden')
        )
