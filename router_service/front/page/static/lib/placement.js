// Who holds what: a snapshot's placement, in which layers may differ.

/** The shards of each expert of a layer, the one asked first in front. */
export const holdersOf = ({ holders, special }, layer) => special?.[layer] ?? holders;

/** Those of every layer. */
export const allHolders = (experts) => experts.layers.map((layer) => holdersOf(experts, layer));

/** Whether layers differ, so that columns belong to no shard. */
export const differs = ({ special }) => Object.keys(special ?? {}).length > 0;

/** Whether some experts have more copies than others: what a balancer does for hot ones. */
export function uneven(experts) {
  const counts = allHolders(experts).flat().map((shards) => shards.length);
  return new Set(counts).size > 1;
}
