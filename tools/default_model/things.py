"""What the models draw: labels in emojibase, and after = what the things are called there, if it is something else.

Faces that differ in a mouth only, a few of each kind of animal, and what nobody asks for are left out.
"""

SMALL = """
cat face = cat | dog face = dog | fox | panda | lion | tiger face = tiger | frog | monkey face = monkey
pig face = pig | rabbit face = rabbit, bunny | bear | unicorn | penguin | front-facing baby chick = chick | owl
octopus | turtle | tropical fish = fish | spouting whale = whale | butterfly | lady beetle = ladybug
honeybee = bee | snail | crab | t-rex = dinosaur | red apple = apple | banana | strawberry | lemon | watermelon
pineapple | cherries | carrot | pizza | hamburger = hamburger, burger | french fries = fries | doughnut = donut
birthday cake = cake | soft ice cream = ice cream | cookie | mushroom | rocket | automobile = car
airplane = airplane, plane | sailboat = boat | house | castle | guitar | balloon | robot | ghost | alien | skull
snowman | red heart = heart | star | sun | crescent moon = moon | cloud | rainbow | umbrella
deciduous tree = tree | cactus | sunflower | crown | wrapped gift = gift | trophy | key | light bulb
soccer ball | flying saucer = ufo | jack-o-lantern = pumpkin | gem stone = diamond | teddy bear
grinning face = smiley, happy smiley | smiling face with sunglasses = cool smiley
face with tears of joy = laughing smiley | smiling face with heart-eyes = love smiley | crying face = sad smiley
enraged face = angry smiley | elephant | horse face = horse | cow face = cow | mouse face = mouse | dragon
koala | wolf | giraffe | duck | dolphin | snake | flamingo | parrot | shark | lobster | tulip | rose
blossom = flower | palm tree | bread | cheese wedge = cheese | grapes | peach | avocado | tomato | cupcake
hot beverage = coffee, cup of coffee | bicycle = bicycle, bike | locomotive = train, locomotive
delivery truck = truck | bus | helicopter | motorcycle | fire | snowflake | alarm clock = clock, alarm clock
closed book = book | camera | laptop = laptop, computer | top hat = hat, top hat
"""
# The larger model's, besides.
MORE = """
winking face = winking smiley | face blowing a kiss = kissing smiley | thinking face = thinking smiley
sleeping face = sleeping smiley | partying face = party smiley | cowboy hat face = cowboy smiley
cold face = freezing smiley | exploding head | nerd face = nerd smiley | face with medical mask = masked smiley
smiling face with horns = devil smiley | smiling face with halo = angel smiley | clown face = clown
pile of poo = poo | alien monster = space invader | broken heart | heart on fire | love letter
kiss mark = lips | speech balloon = speech bubble | collision = explosion | gorilla | orangutan | poodle
raccoon | leopard | moose | donkey | zebra | deer | bison | ewe = sheep | goat | two-hump camel = camel | llama
mammoth | rhinoceros = rhino, rhinoceros | hippopotamus = hippo, hippopotamus | rat
chipmunk = squirrel, chipmunk | hedgehog | bat | polar bear | sloth | otter | skunk | kangaroo | paw prints
turkey | chicken | rooster | hatching chick | bird | dove | eagle | swan | feather | peacock | goose | crocodile
lizard | sauropod | seal | blowfish | spiral shell = shell, seashell | jellyfish | shrimp | bug = caterpillar
ant | spider | spider web | scorpion | bouquet | cherry blossom | lotus | hibiscus | potted plant
evergreen tree = pine tree | herb | four leaf clover = clover | maple leaf | tangerine | mango | pear
blueberries | kiwi fruit = kiwi | olive | coconut | eggplant | potato | ear of corn = corn
hot pepper = chili pepper | bell pepper | cucumber | leafy green = lettuce | broccoli | garlic | onion | peanuts
croissant | baguette bread = baguette | pretzel | pancakes | waffle | poultry leg = chicken leg
cut of meat = steak | bacon | hot dog | sandwich | taco | burrito | egg | cooking = fried egg
green salad = salad | popcorn | butter | rice ball | cooked rice = rice, bowl of rice
steaming bowl = ramen, noodle soup | spaghetti | sushi | fried shrimp | dumpling | fortune cookie | shortcake
pie | chocolate bar = chocolate | candy | lollipop | honey pot = honey, honey pot
glass of milk = milk, glass of milk | teapot | wine glass = wine, glass of wine | cocktail glass = cocktail
tropical drink | beer mug = beer | cup with straw = soda | bubble tea | spoon
globe showing europe-africa = globe, earth | compass | snow-capped mountain = mountain | volcano
desert island = island | factory | church | mosque | tent | ferris wheel | carousel horse = carousel | tram
ambulance | fire engine = fire truck | police car | taxi | pickup truck | tractor | racing car = race car
kick scooter = scooter | skateboard | roller skate | vertical traffic light = traffic light | stop sign | anchor
ring buoy = life ring | canoe | speedboat | passenger ship = ship, cruise ship | parachute | luggage = suitcase
hourglass done = hourglass | watch | thermometer | full moon | ringed planet = planet | shooting star
cloud with rain = rain cloud | tornado | high voltage = lightning, lightning bolt | droplet = water drop
water wave = wave | christmas tree | fireworks | sparkles | party popper | ribbon | baseball | basketball
volleyball | american football = football | tennis = tennis racket | bowling = bowling pins | boxing glove
ice skate | skis
bullseye = target | yo-yo | kite | water pistol = water gun | pool 8 ball = billiard ball | crystal ball
magic wand | joystick | game die = dice | puzzle piece | mirror ball = disco ball | artist palette = palette
thread | glasses | sunglasses | necktie = tie | t-shirt | jeans | scarf | socks | dress | bikini | handbag
backpack | running shoe = shoe, sneaker | high-heeled shoe = high heel | graduation cap | billed cap = cap
lipstick | ring | megaphone | bell | musical note = music note | microphone | headphone = headphones | radio
saxophone | trumpet | violin | banjo | drum | mobile phone = phone | telephone | desktop computer = monitor
printer | floppy disk | television = tv, television | movie camera | candle | flashlight
magnifying glass tilted left = magnifying glass | red paper lantern = lantern | open book | newspaper | coin
money bag | envelope | package = box | pencil | paintbrush | crayon | briefcase | calendar | scissors
locked = lock | hammer | axe | dagger | bomb | boomerang | bow and arrow | shield | wrench | gear
balance scale = scale | magnet | ladder | dna | microscope | telescope | syringe | pill | door | mirror | bed
couch and lamp = couch | chair | toilet | bathtub | soap | toothbrush | fire extinguisher
"""


def things(text):
    """Label -> names, the first the one that prompts are made with."""
    found = {}
    for entry in text.replace("\n", " | ").split(" | "):
        label, _, names = entry.partition(" = ")
        if label:
            found[label] = names.split(", ") if names else [label]
    return found
